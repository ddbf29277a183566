"""A local MCP server: memory and document search, with a policy that says what may never be forgotten or reworded."""
