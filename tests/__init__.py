"""Tests, by level: unit, property, integration, e2e; what they share lies here."""
