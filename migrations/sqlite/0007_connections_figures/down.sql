DROP INDEX connections_by_state_since;
DROP INDEX connections_idle;
