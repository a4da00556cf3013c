"""The services' stores on SQLite or PostgreSQL."""
