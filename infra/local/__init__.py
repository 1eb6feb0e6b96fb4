"""AWS on a laptop: a stand-in for the services and a local Athena, on loopback; they end with their parent process."""
