"""From a question to an answer with sources; the passages come from whoever searches."""
