"""The Airflow face of Longseal: thin operators and hooks over the library ``longseal``."""
