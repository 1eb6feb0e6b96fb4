"""A consumer that is configured with the address of the api-catalog only: it finds the API, and reads from it."""
