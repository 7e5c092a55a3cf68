"""What tests of several folders share: models, toy workers, a fake router, receivers."""
