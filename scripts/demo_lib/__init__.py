"""The demonstration: a chain, a server, three providers, two buyers with a witness each, and jobs
that end in every way a job can; then the books, read from the chain.
"""
