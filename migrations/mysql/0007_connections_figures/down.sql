ALTER TABLE connections
    DROP KEY connections_by_state_since,
    DROP KEY connections_idle;
