"""The one file that Airflow's plugin loader executes; see ``.airflowignore`` beside it."""

from airflow.plugins_manager import AirflowPlugin


class LongsealPlugin(AirflowPlugin):
    """Shows in ``airflow plugins`` that Longseal's operators and hooks can be imported."""

    name = "longseal"
