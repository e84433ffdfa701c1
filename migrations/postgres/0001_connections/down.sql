DROP TABLE connections;
DROP POLICY pipekeeper ON __diesel_schema_migrations;
ALTER TABLE __diesel_schema_migrations DISABLE ROW LEVEL SECURITY;
