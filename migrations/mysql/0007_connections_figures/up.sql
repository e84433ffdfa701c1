ALTER TABLE connections
    ADD KEY connections_by_state_since (platform, app_id, state, state_since),
    ADD KEY connections_idle (state, idle_deadline);
