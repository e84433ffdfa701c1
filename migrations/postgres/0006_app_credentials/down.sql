DROP TABLE app_credentials;
