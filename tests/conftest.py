pytest_plugins = ["tests.airflow_home", "tests.lab.fixtures"]
