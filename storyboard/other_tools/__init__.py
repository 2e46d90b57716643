"""Pictures of other tools: what their texts say of how they were made, as a story can say it."""
