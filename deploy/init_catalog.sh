#!/bin/sh
# Run once by PostgreSQL's image, when the data folder is new: the catalog's own role and database.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv password LONGSEAL_DB_PASSWORD
CREATE ROLE longseal LOGIN PASSWORD :'password';
CREATE DATABASE longseal OWNER longseal;
SQL
