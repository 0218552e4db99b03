"""Operations on a server for people: inspection, replay, trimming, seek."""
