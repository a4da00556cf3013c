"""The demonstration: a chain, a server, four providers, two buyers and a purse's operator with a
witness each, and jobs that end in every way a job can; then the books, read from the chain.
"""
