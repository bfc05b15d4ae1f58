-- Run once, when PostgreSQL's volume is new: a sweep's trials want another database than the runs.
CREATE DATABASE sweeps;
