"""WebShop with generated catalogs: rules that read only what the agent saw, and demonstrations."""
