"""Hooks: settings and Airflow connections, as the library wants them."""
