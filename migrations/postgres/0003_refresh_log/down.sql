DROP TABLE refresh_log;
