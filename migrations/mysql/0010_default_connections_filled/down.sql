DELETE FROM default_connections;
