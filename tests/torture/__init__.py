"""The promises of a run, each tried until it breaks: `scripts/torture`; the tests run the fast form of the same."""
