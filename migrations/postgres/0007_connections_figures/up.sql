CREATE INDEX connections_by_state_since ON connections (platform, app_id, state, state_since);
CREATE INDEX connections_idle ON connections (state, idle_deadline);
