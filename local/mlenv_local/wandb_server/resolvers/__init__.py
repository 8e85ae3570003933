"""GraphQL resolvers: every module's `BINDABLES` become part of the schema."""
