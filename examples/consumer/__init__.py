"""A consumer that is configured only with the address of the api-catalog: it finds the API and reads from it."""
