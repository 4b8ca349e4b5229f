"""A bundle's files: manifest, parity record, golden inputs."""
