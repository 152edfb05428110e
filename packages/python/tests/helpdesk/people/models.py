from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models


class Team(models.Model):
    name = models.CharField(max_length=50)


class People(BaseUserManager):
    def create_user(self, name, password=None, **more):
        person = self.model(name=name, **more)
        person.set_password(password)
        person.save()
        return person

    def create_superuser(self, name, password=None, **more):
        return self.create_user(name, password, is_staff=True, is_superuser=True, **more)


class Person(AbstractBaseUser, PermissionsMixin):
    """No `username`, and a database that does not tell `Alice` from `alice`."""

    name = models.CharField(max_length=60, unique=True, db_collation="NOCASE")
    team = models.ForeignKey(Team, null=True, on_delete=models.SET_NULL)
    is_staff = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    objects = People()
    USERNAME_FIELD = "name"
