"""AWS on a laptop: a stand-in for the services and a local Athena, on loopback, which end with their parent process."""
