// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {IEscrowBase, Terms} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";

/// @title Ledger
/// @notice Balances, and all that is fixed at deployment.
/// @dev Only what calls the token is guarded against reentrance: nothing else calls out, but for the static calls of
/// ERC-1271. Additions to balances cannot overflow: `_receive` bounds the sum of all holdings.
abstract contract Ledger is IEscrowBase, EIP712, ReentrancyGuard {
    using SafeERC20 for IERC20;

    /* CONSTANTS */

    uint256 private constant MAX_FEE_BPS = 1000;
    uint256 private constant MIN_WINDOW_SECONDS = 1 minutes;
    uint256 private constant MAX_WINDOW_SECONDS = 30 days;
    uint256 private constant MAX_DECIMALS = 18;

    /* IMMUTABLES */

    IERC20 internal immutable TOKEN;
    /// @dev Atoms of one token: 10^decimals.
    uint256 internal immutable SCALE;
    uint256 internal immutable FEE_BPS;
    address internal immutable FEE_RECIPIENT;
    uint256 internal immutable SETTLE_WINDOW;

    /* STORAGE */

    /// @dev `balance`: free atoms. `fees`: atoms held back from a provider's income, owed to the fee recipient.
    /// `ordersFrom`: lowest salt that the account's orders may have.
    struct Account {
        uint96 balance;
        uint96 fees;
        uint64 ordersFrom;
    }

    mapping(address account => Account) internal _accounts;

    /* CONSTRUCTOR */

    constructor(Terms memory terms) EIP712("Coulomb", "1") {
        if (terms.token.code.length == 0) revert TokenWithoutCode(terms.token);
        uint256 decimals = IERC20Metadata(terms.token).decimals();
        Check.atMost(MAX_DECIMALS, decimals, DecimalsTooMany.selector);
        Check.atMost(MAX_FEE_BPS, terms.feeBps, FeeTooHigh.selector);
        if (terms.feeBps > 0 && terms.feeRecipient == address(0)) revert FeeRecipientMissing(terms.feeBps);
        TOKEN = IERC20(terms.token);
        SCALE = 10 ** decimals;
        FEE_BPS = terms.feeBps;
        FEE_RECIPIENT = terms.feeRecipient;
        uint256 window = terms.settleWindow;
        if (window < MIN_WINDOW_SECONDS || window > MAX_WINDOW_SECONDS) {
            revert WindowOutOfBounds(MIN_WINDOW_SECONDS, MAX_WINDOW_SECONDS, window);
        }
        SETTLE_WINDOW = window;
    }

    /* BALANCES */

    /// @dev Moves tokens of the sender, who has approved it, to an account's balance.
    function _deposit(address account, uint256 amount) internal {
        uint256 before = _holdingsBefore(amount);
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
        _receive(account, amount, before);
    }

    /// @dev What must be known before tokens come in: the amount is not zero; what is held now.
    function _holdingsBefore(uint256 amount) internal view returns (uint256) {
        if (amount == 0) revert ZeroAmount();
        return TOKEN.balanceOf(address(this));
    }

    /// @dev Credits `amount` that has just come in, provided that it has. Callers hold the reentrancy guard from before
    /// the transfer to here.
    function _receive(address account, uint256 amount, uint256 before) internal {
        uint256 holdings = TOKEN.balanceOf(address(this));
        Check.atMost(type(uint96).max, holdings, HoldingsTooLarge.selector);
        if (holdings != before + amount) Check.fail(before + amount, holdings, TransferMismatch.selector);

        _credit(account, amount);

        emit Deposited(account, amount);
    }

    /// @dev Moves tokens out. Callers hold the reentrancy guard.
    function _send(address account, address to, uint256 amount) internal {
        if (to == address(0) || to == address(this)) revert InvalidRecipient(to);
        if (amount == 0) revert ZeroAmount();

        _debit(account, amount);

        emit Withdrawn(account, to, amount);

        TOKEN.safeTransfer(to, amount);
    }

    function _credit(address account, uint256 amount) internal {
        unchecked {
            if (amount > 0) _accounts[account].balance += uint96(amount);
        }
    }

    function _debit(address account, uint256 amount) internal {
        uint256 available = _accounts[account].balance;
        Check.atMost(available, amount, InsufficientBalance.selector);
        _accounts[account].balance = uint96(available - amount);
    }

    /// @dev Credits a provider with the growth of its earnings, the fee held apart.
    function _pay(address provider, uint256 gross, uint256 fee) internal {
        if (gross == 0) return;
        Account memory account = _accounts[provider];
        unchecked {
            account.balance += uint96(gross - fee);
            account.fees += uint96(fee);
        }
        _accounts[provider] = account;
    }
}
