"""eROSITA light curves: processes, a survey, its products."""
