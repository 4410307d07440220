"""Alembic's entry: runs the migrations on the URL that vdc.inventory.migrate hands over."""

from alembic import context

from vdc.inventory import engine
from vdc.schema import Base

with engine(context.config.attributes["url"]).connect() as connection:
    context.configure(
        connection=connection.execution_options(vdc_write=True),
        target_metadata=Base.metadata,
        render_as_batch=True,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
