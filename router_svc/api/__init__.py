"""The wire: requests in, events out. Generated messages stop here."""
