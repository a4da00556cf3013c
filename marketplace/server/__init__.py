"""Where the market is put together: settings, loops, roles and what operators run."""
