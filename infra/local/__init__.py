"""The laptop as AWS: a stand-in for the services, an Athena of our own, on loopback and gone with their parent."""
