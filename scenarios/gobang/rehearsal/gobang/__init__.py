"""Gobang: five in a row on a board of 15 by 15, with an AI to play against."""
