ALTER TABLE imports DROP COLUMN mirrored_generation;
ALTER TABLE imports ADD COLUMN replaced_at timestamptz;
