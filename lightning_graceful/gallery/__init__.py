"""A searchable gallery that outlives its model: built by one, searched by another, refreshed part by part."""
