"""The conformance kit that kernel authors run."""
