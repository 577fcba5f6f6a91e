"""Facts about the games of the Arcade Learning Environment (Bellemare et al. 2013), as ale-py 0.12 has them."""

from __future__ import annotations

_GAMES_BY_ACTIONS = {
    3: "Backgammon Freeway Skiing",
    4: "Atlantis Atlantis2 Blackjack Breakout Casino Kaboom",
    5: "Frogger Pacman Surround Tetris VideoCheckers",
    6: (
        "AirRaid BasicMath Bowling Carnival DemonAttack Galaxian KingKong NameThisGame Pong Pooyan Qbert "
        "SirLancelot SpaceInvaders UpNDown"
    ),
    7: "Assault",
    8: "Gopher Phoenix Tutankham",
    9: "Asterix BeamRider CrazyClimber Enduro Koolaid LostLuggage MsPacman VideoPinball",
    10: "Amidar MrDo Othello TimePilot VideoChess WizardOfWor",
    12: "Turmoil",
    14: "Asteroids KeystoneKapers KungFuMaster",
    16: "JourneyEscape",
    18: (
        "Adventure Alien BankHeist BattleZone Berzerk Boxing Centipede ChopperCommand Crossbow Darkchambers "
        "Defender DonkeyKong DoubleDunk Earthworld ElevatorAction Entombed Et FishingDerby FlagCapture "
        "Frostbite Gravitar Hangman HauntedHouse Hero HumanCannonball IceHockey Jamesbond Kangaroo Klax Krull "
        "LaserGates MarioBros MiniatureGolf MontezumaRevenge Pitfall Pitfall2 PrivateEye Riverraid RoadRunner "
        "Robotank Seaquest Solaris SpaceWar StarGunner Superman Tennis Trondead Venture VideoCube WordZapper "
        "YarsRevenge Zaxxon"
    ),
}

NUM_ACTIONS = {game: actions for actions, games in _GAMES_BY_ACTIONS.items() for game in games.split()}
"""The number of actions that have an effect in each game (its minimal action set), by the name in ``ALE/NAME-v5``."""
