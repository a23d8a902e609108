"""The cryptography of a bundle: one interface, and a file for each that verifies."""
