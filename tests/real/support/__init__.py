"""What the tests with real app servers share. Nothing in here knows how seawall works inside."""
