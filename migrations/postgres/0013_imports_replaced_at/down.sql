ALTER TABLE imports DROP COLUMN replaced_at;
ALTER TABLE imports ADD COLUMN mirrored_generation bigint NOT NULL DEFAULT 0;
