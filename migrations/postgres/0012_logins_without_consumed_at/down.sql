ALTER TABLE logins ADD COLUMN consumed_at timestamptz;
