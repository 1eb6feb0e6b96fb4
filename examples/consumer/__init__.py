"""A consumer that knows nothing but the api-catalog: it finds the address, and reads."""
