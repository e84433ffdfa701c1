ALTER TABLE imports DROP COLUMN mirrored_generation, ADD COLUMN replaced_at DATETIME(6) NULL;
