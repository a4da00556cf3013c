"""The agent: runs jobs on a provider's node, measures them and signs what it measured."""
