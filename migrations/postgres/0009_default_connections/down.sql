DROP TABLE default_connections;
