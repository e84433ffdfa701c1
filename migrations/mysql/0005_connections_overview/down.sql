DROP VIEW connections_overview;
