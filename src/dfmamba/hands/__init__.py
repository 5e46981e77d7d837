"""Hands in pictures: joints, cameras, crops."""
