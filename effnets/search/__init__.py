"""Architecture search: spaces, controllers, rewards and studies over the project's own trainer."""
