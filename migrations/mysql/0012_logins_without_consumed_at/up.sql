ALTER TABLE logins DROP COLUMN consumed_at;
