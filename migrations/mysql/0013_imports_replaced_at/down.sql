ALTER TABLE imports DROP COLUMN replaced_at, ADD COLUMN mirrored_generation BIGINT NOT NULL DEFAULT 0;
