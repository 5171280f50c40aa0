//! Sets up the SSH engine of a real server, repeatably.
